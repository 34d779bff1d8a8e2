export default "first message";
